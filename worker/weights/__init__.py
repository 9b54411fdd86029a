"""The model's files: where they are, whether they are whole, how they come here and become mapped float16."""
