"""Fine-tuning: configs that start from a trained model, and the classes of labelled data."""
