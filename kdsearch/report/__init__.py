"""What a finished study shows to people: report.html, one file that needs no network; front.png; README.md. All recomputed from the ledger.

Nothing here trains, opens the test rows, or imports a plugin: a study that came from another machine is reported on as well.
"""
