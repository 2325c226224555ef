"""
A fleet: four logiss behind a HAProxy, with every message accounted for.

The configuration is the one in deploy/haproxy, with other addresses. Clients post as
drains do, again when they get no answer or a 5xx, while instances are restarted,
killed and halted.

==============  =====================================================================
Room            Its one sentence
==============  =====================================================================
``balancer``    A HAProxy with the configuration of deploy/haproxy
``instances``   Four logiss, and who starts them again when they have ended
``traffic``     Drains that post through the HAProxy, and what became of it
``rounds``      What is done to the fleet
==============  =====================================================================

``make fleet`` plays all of it in full and prints a table.
"""
