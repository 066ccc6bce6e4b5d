"""A Ray cluster on an allocation of nodes: its ports, its start on one node, and asking who came."""
