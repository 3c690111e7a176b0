"""Fine-tuning: configs that start from a trained model, the classes of labelled data, and classifiers in use."""
