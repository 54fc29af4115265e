"""The Ray Data graph: chunks of corpora, the built corpus, and each worker's resumable stream of examples."""
