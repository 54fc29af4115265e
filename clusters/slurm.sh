#!/usr/bin/env bash
# Ray inside of one Slurm allocation: a head on its first node, a worker on each of the others, then one command.
#
#   sbatch clusters/slurm.sh align experiment.yaml --resume      # followed by an `ialign` command
#
# The experiment says `scaling.address: auto`. Lines to fill in are marked FILL. Checked with shellcheck and run with
# stand-ins for Slurm's two commands (tests/unit/clusters/test_slurm.py), never on a real Slurm cluster.
#SBATCH --job-name=ialign
#SBATCH --nodes=4                   # FILL: hosts
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=4           # FILL: GPUs per node; remove the line if there are no GPUs
#SBATCH --time=24:00:00             # FILL
#SBATCH --signal=B:TERM@300         # five minutes before the end: save a checkpoint
#SBATCH --requeue                   # a preempted job starts again, and --resume continues it
##SBATCH --partition=...            # FILL if your site requires one
##SBATCH --account=...              # FILL if your site requires one
set -euo pipefail

venv=${IALIGN_VENV:-$HOME/ialign-venv}   # FILL: an environment on storage that all nodes share, with ialign_ray in it
export PATH="$venv/bin:$PATH"
[ -x "$venv/bin/ialign" ] || { echo "slurm.sh: $venv holds no ialign; set IALIGN_VENV" >&2; exit 2; }
[ "$#" -gt 0 ] || { echo "slurm.sh: name an ialign command, as in: sbatch clusters/slurm.sh align my.yaml" >&2; exit 2; }

# Other users share these nodes: the token is for this job only, in a file that only you can read, never in arguments.
umask 077
secrets=$(mktemp -d "$HOME/.ialign-job-XXXXXX")   # the home is shared, /tmp is not
trap 'rm -rf "$secrets"' EXIT
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$secrets/token" RAY_USAGE_STATS_ENABLED=0
python -c 'import secrets; print(secrets.token_hex(32), end="")' >"$RAY_AUTH_TOKEN_PATH"

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
# jobs of several users on one node must not use the same port
port=$((20000 + SLURM_JOB_ID % 20000))
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')
per_node=(--num-cpus="${SLURM_CPUS_ON_NODE:-1}" --disable-usage-stats --block)
[ -n "${SLURM_GPUS_ON_NODE:-}" ] && per_node+=(--num-gpus="$SLURM_GPUS_ON_NODE")

srun --nodes=1 --ntasks=1 --overlap --nodelist="$head" \
  ray start --head --node-ip-address="$address" --port="$port" --include-dashboard=false "${per_node[@]}" &
steps=($!)
export RAY_ADDRESS="$address:$port"
for _ in $(seq 60); do ray health-check --address "$RAY_ADDRESS" 2>/dev/null && break; sleep 2; done
ray health-check --address "$RAY_ADDRESS" || { echo "slurm.sh: no head on $head after two minutes" >&2; exit 1; }

workers=$((${#nodes[@]} - 1))
if [ "$workers" -gt 0 ]; then
  srun --nodes="$workers" --ntasks="$workers" --overlap --exclude="$head" \
    ray start --address="$RAY_ADDRESS" "${per_node[@]}" &
  steps+=($!)
fi

ialign "$@" &
driver=$!
told=
trap 'told=yes; kill -TERM "$driver" || true' TERM    # the driver saves, and ends with exit code 143
# A signal ends `wait` with a different code: wait again for the driver's, which Bash keeps even if it has already
# ended.
while :; do
  wait "$driver" && code=0 || code=$?
  [ -n "$told" ] || break
  told=
done
kill "${steps[@]}" 2>/dev/null || true
exit "$code"
