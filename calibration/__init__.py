"""What turns raw outputs into numbers one may act on. NumPy only; may import `firmware_bridge`, never `toolkit`."""
