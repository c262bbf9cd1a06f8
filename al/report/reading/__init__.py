"""Looking things up in a document, and what follows from its numbers: the verdict, the price, the words for them."""
