"""Data: corpora, vocabulary, splits, batch loaders, dataset."""
