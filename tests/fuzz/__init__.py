"""
Fuzzing: whatever comes over a wire, nothing crashes, hangs, grows or is misread.

Each target is a function of octets that raises when logiss does something wrong with
them. It compares: with another reading of the same octets, with the other twin, with
the same octets in other pieces.

===============  ====================================================================
Room             Its one sentence
===============  ====================================================================
``pieces``       Cuts octets into pieces, as the octets themselves decide
``h11_oracle``   What h11 makes of a client's octets, and of our answers
``http``         Target: requests, against h11, however they are cut
``body``         Target: frames, against the twin and a plain second reading
``gzipped``      Target: gzip bodies, against the standard library's reader
``relp_model``   What the answers of a RELP server say, worked out plainly
``relp``         Target: a RELP server's answers, against the model and the twin
``proxied``      Target: headers of the PROXY protocol, against Twisted's parser
``basic``        Target: Authorization headers, against a second reading
``stamped``      Target: what goes into structured data and into log lines
``targets``      The table of targets, and their corpora
``growth``       Sees whether what a target leaves behind grows
``engines``      Runs a target on new octets: with atheris, or with hypothesis
``planted``      Finds out whether the targets see mistakes that are planted
===============  ====================================================================

``make fuzz`` runs them, ``python -m tests.fuzz --help`` one by one; the folder
``corpus`` is played by `tests.test_fuzz` with the other tests.
"""
