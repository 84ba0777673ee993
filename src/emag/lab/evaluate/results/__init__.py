"""The results page: numbers of stored runs, sentences that follow from them, a picture of the front."""
