"""Image files and folders of any origin in; decoded radiographs and predictions for them out."""
