"""Backbones of our own, in a flat functional form that quantizes as a whole."""

from toolkit.backbones.efficientnet import EFFICIENTNET_B0, EFFICIENTNET_LITE0, efficientnet_features

__all__ = ["EFFICIENTNET_B0", "EFFICIENTNET_LITE0", "efficientnet_features"]
