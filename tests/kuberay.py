"""What KubeRay's resources may hold, as JSON Schema: the fields of its API reference that our files use.

KubeRay's own CRDs are in no package of a registry, so the parts that are KubeRay's are written down here, closed
against typing errors, and the parts that are Kubernetes' (pods) are checked by its OpenAPI schema.
"""

TEXT, FLAG = {"type": "string"}, {"type": "boolean"}
COUNT = {"type": "integer", "minimum": 0}
PARAMETERS = {"type": "object", "additionalProperties": TEXT}  # of `ray start`; KubeRay takes text alone


def closed(required: tuple[str, ...] = (), **properties: object) -> dict:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


TEMPLATE = {"type": "object", "required": ["spec"]}
CLUSTER = closed(
    ("headGroupSpec",),
    rayVersion=TEXT,
    authOptions=closed(("mode",), mode={"enum": ["disabled", "token"]}, secretName=TEXT),
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=closed(
        version={"enum": ["v1", "v2"]},
        idleTimeoutSeconds=COUNT,
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        resources={"type": "object"},
    ),
    headGroupSpec=closed(
        ("rayStartParams", "template"),
        serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
        rayStartParams=PARAMETERS,
        template=TEMPLATE,
    ),
    workerGroupSpecs={
        "type": "array",
        "items": closed(
            ("groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"),
            groupName=TEXT,
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            idleTimeoutSeconds=COUNT,
            numOfHosts={"type": "integer", "minimum": 1},
            rayStartParams=PARAMETERS,
            template=TEMPLATE,
        ),
    },
)
JOB = closed(
    ("entrypoint", "rayClusterSpec"),
    entrypoint=TEXT,
    rayClusterSpec=CLUSTER,
    shutdownAfterJobFinishes=FLAG,
    ttlSecondsAfterFinished=COUNT,
    backoffLimit=COUNT,
    activeDeadlineSeconds=COUNT,
    runtimeEnvYAML=TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
)
SERVICE = closed(
    ("serveConfigV2", "rayClusterConfig"),
    serveConfigV2=TEXT,
    rayClusterConfig=CLUSTER,
    excludeHeadPodFromServeSvc=FLAG,
)
SPECS = {"RayCluster": CLUSTER, "RayJob": JOB, "RayService": SERVICE}


def resource(kind: str) -> dict:
    """The schema of a whole resource."""
    metadata = closed(("name",), name={"type": "string", "pattern": "^[a-z0-9-]{1,50}$"}, labels={"type": "object"})
    return closed(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": "ray.io/v1"},
        kind={"const": kind},
        metadata=metadata,
        spec=SPECS[kind],
    )


def cluster_of(resource: dict) -> dict:
    """The RayClusterSpec in a RayCluster, RayJob or RayService."""
    spec = resource["spec"]
    return spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
