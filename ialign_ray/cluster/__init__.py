"""The one place where this project starts or joins Ray and asks what a cluster has room for."""
