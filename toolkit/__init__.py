"""The workstation: data to model to bundle. The only room that imports TensorFlow."""
