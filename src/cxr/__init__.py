"""Train, compare and trust classifiers of pediatric chest radiographs. Not for clinical use."""
