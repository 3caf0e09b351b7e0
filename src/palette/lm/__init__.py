"""Language models: loading, prompt templates, generation, scoring and training."""
