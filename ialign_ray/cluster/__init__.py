"""Starting or joining a Ray cluster, and checking what it has room for; no other package does either."""
