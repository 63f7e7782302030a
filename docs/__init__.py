"""What is made of the documents here, and what they are made of."""
