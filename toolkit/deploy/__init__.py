"""The half of a deployment that runs on the workstation: inventory, connection, packages, plan, fleet."""
