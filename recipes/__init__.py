"""Full runs as Python functions, named dataset_model_method, and scripts that prepare data sets for them."""
