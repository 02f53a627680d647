"""What runs on the device: decoding, preprocessing, inference, the agent. Imports neither of its siblings."""
