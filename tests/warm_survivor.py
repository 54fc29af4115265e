"""Preloaded by the server that `survivor` processes are forked from."""

import survivor

survivor.warm()
