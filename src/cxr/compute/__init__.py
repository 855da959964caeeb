"""A network and batches of images in, its outputs out: OpenVINO, TensorFlow or a Dask cluster."""
