"""The page: what the agent did last and how it is, for the people beside the device."""
