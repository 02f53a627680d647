"""The lung network: a small U-Net from human-drawn masks, exported as the int8 file that bundles carry."""
