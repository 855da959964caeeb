"""Where Keras has the backbones of params.yaml."""

# Modules of keras.applications with the `preprocess_input` of each backbone.
MODULES = {
    "xception": "xception",
    "resnet50v2": "resnet_v2",
    "densenet121": "densenet",
    "mobilenetv2": "mobilenet_v2",
    "efficientnetv2b0": "efficientnet_v2",
    "convnexttiny": "convnext",
}
