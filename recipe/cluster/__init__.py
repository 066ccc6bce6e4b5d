"""A Ray cluster on an allocation of nodes: ports, a node's start, asking who came."""
