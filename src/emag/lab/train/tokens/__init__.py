"""Small models of the libraries' own classes that learn a language whose rule is known, one file a kind of host."""
