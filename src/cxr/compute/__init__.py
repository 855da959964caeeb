"""Inference of networks on batches of images: OpenVINO, TensorFlow, Dask clusters."""
