"""
Faults, each with every message accounted for: what a 200 was worth when it ends.

logiss runs as a process, a receiver as another, and a load of numbered messages goes
through while something breaks. Afterwards each message is either where its answer
says or a row of the report tells that it is not.

==============  =====================================================================
Room            Its one sentence
==============  =====================================================================
``messages``    What a message looks like, when it is posted and when it arrives
``regions``     Takes octet-counted frames out of what a receiver has left behind
``sink``        A receiver process that receives straight into shared file mappings
``receivers``   Starts, stops, halts and kills a sink or an rsyslogd
``intake``      A logiss process and its log
``load``        Posts numbered messages over keep-alive connections, each once
``ledger``      Compares what was answered with what has arrived
``levels``      The delivery levels, each with the variables that ask for it
``netns``       A network namespace whose link can be made to drop one direction
``stage``       All of these around one scenario
``required``    What a row has to show, as predicates
``breaks``      Scenarios: the receiver goes away
``silences``    Scenarios: the receiver, or the way to it, falls silent
``tls``         Scenarios: TLS that must not come about
``clients``     Scenarios: clients that go away or try again
``ends``        Scenarios: logiss itself is ended
``scenarios``   The table: each scenario with its levels and what they require
``report``      The rows as reStructuredText
``lying``       A logiss that answers too early, which the scenarios have to catch
==============  =====================================================================

``python -m tests.faults --help`` runs them by hand, ``make faults`` in full.
"""
