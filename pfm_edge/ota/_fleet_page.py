"""The fleet's status as one HTML page: no script, nothing loaded from elsewhere.

Owns the page that a person files, prints or sends::

    Path("status.html").write_bytes(fleet_page(status))

It says first what a receipt is worth. Long lists are cut on the page; `--json` has all of them.
"""

from collections.abc import Iterable, Sequence
from html import escape

from pfm_edge.ota._fleet import WORTH, FleetStatus, OrderStatus

__all__ = ["fleet_page"]

_MOST = 1000  # rows of one list

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --good: #2e7d4f; --bad: #b3402e; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem; margin: 0 } h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem }
p.when, td.none, caption { opacity: .7 }
aside { border-left: 4px solid #b8860b; background: var(--soft); padding: .8rem 1rem }
aside h2 { margin: 0 0 .3rem; font-size: 1rem } aside p { margin: 0 }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem } ul { margin: .2rem 0; padding-left: 1.4rem }
ul.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)) }
ul.figures { gap: .8rem; list-style: none; margin: 1rem 0; padding: 0 }
ul.figures li { border: 1px solid var(--line); border-radius: .4rem; padding: .5rem 1rem }
ul.figures b { display: block; font-size: 1.5rem }
table { border-collapse: collapse; width: 100% } caption { text-align: left; padding: .3rem 0 }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid var(--line) }
th { font-weight: 600 } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
code { font-size: .85em; overflow-wrap: anywhere }
meter { width: 8rem } .bad { color: var(--bad); font-weight: 600 } .good { color: var(--good) }
details { margin: .6rem 0; border: 1px solid var(--line); border-radius: .4rem }
details { padding: .4rem .8rem }
summary { cursor: pointer } .scroll { overflow-x: auto }
@media (prefers-color-scheme: dark) { :root { --good: #7cc79a; --bad: #ff9480 } }
@media print { details { break-inside: avoid } body { max-width: none; margin: 0 } }
"""


def fleet_page(status: FleetStatus) -> bytes:
    """Return the page, UTF-8."""
    parts = [
        _head(status),
        _figures(status),
        _orders(status),
        *(_order(each, status) for each in status.orders),
        _apart(status),
    ]
    return ("\n".join(parts) + "\n</body>\n</html>\n").encode()


def _head(status: FleetStatus) -> str:
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Orders to forget, and what the devices stated</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>Orders to forget, and what the devices stated</h1>
<p class="when">As of {_time(status.time)}; forget list {status.forget_list.number} of
{_time(status.forget_list.issued_at)}.</p>
<aside><h2>What a receipt is worth</h2><p>{escape(WORTH)}</p></aside>"""


def _figures(status: FleetStatus) -> str:
    complete = sum(not (each.waiting or each.late or each.doubtful) for each in status.orders)
    late = {device for each in status.orders for device in each.late}
    figures = {
        "devices enrolled": status.enrolled,
        "orders": len(status.orders),
        "stated by every enrolled device": complete,
        f"devices late (more than {status.late_after} days)": len(late),
        "devices with contradicting receipts": len(status.receipts.doubtful),
    }
    items = "".join(f"<li><b>{count}</b>{escape(what)}</li>" for what, count in figures.items())
    return f'<ul class="figures">{items}</ul>'


def _orders(status: FleetStatus) -> str:
    rows = [
        [
            f"<code>{escape(each.order_id)}</code>",
            escape(each.reason),
            _time(each.time),
            _number(len(each.class_ids)),
            _number(f"{len(each.stated)} of {status.enrolled}"),
            _meter(each, status),
            _number(each.erased),
            _number(len(each.waiting)),
            _number(len(each.late), bad=True),
            _number(len(each.doubtful), bad=True),
        ]
        for each in status.orders
    ]
    names = ["Order", "Reason", "Given", "#Classes", "#Stated", "", "#Had it", "#Waiting", "#Late"]
    table = _table([*names, "#Set apart"], rows, "no class was ordered to be forgotten yet")
    return f"<h2>Orders</h2>\n{table}"


def _order(order: OrderStatus, status: FleetStatus) -> str:
    rows = [
        [
            f"<code>{each.device}</code>",
            f"<code>{each.class_id}</code>",
            escape(each.outcome) + (" (set apart)" if each.device in order.doubtful else ""),
            _time(each.time),
            escape(each.clock),
            _number(each.number),
        ]
        for each in order.statements[:_MOST]
    ]
    names = ["Device", "Class", "Stated", "At (its clock)", "Clock", "#Ledger record"]
    return (
        f"<details><summary>Order <code>{escape(order.order_id)}</code>: "
        f"{len(order.stated)} of {status.enrolled} stated, {len(order.late)} late</summary>\n"
        + _table(names, rows, "no enrolled device stated anything yet")
        + _cut(len(order.statements))
        + _list("Late", order.late)
        + _list("Waiting", order.waiting)
        + _list("Set apart", order.doubtful)
        + "</details>"
    )


def _apart(status: FleetStatus) -> str:
    found = status.receipts
    unknown = [f"{key_id}: {count} receipts" for key_id, count in found.unknown.items()]
    unreadable = [f"{name}: {reason}" for name, reason in found.unreadable.items()]
    lists = (
        _list("Unknown: signed with a key that nobody enrolled", unknown)
        + _list("Duplicated: two different records at one place of a ledger", found.duplicated)
        + _list("Regressed: a later record has a lower number", found.regressed)
        + _list("No receipt, or one that does not verify", unreadable)
    )
    repeated = f"<p>{found.repeated} receipts came more than once; each counts once.</p>"
    return "<h2>Set apart, and not counted</h2>\n" + (lists or "<p>Nothing.</p>") + repeated


def _table(names: Sequence[str], rows: Iterable[Sequence[str]], empty: str) -> str:
    head = "".join(
        f'<th class="n">{escape(each[1:])}</th>' if each[:1] == "#" else f"<th>{escape(each)}</th>"
        for each in names
    )
    body = "".join(
        "<tr>" + "".join(c if c.startswith("<td") else f"<td>{c}</td>" for c in row) + "</tr>\n"
        for row in rows
    )
    if not body:
        body = f'<tr><td class="none" colspan="{len(names)}">{escape(empty)}</td></tr>\n'
    table = f"<table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


def _list(what: str, items: Sequence[str]) -> str:
    if not items:
        return ""
    rows = "".join(f"<li><code>{escape(each)}</code></li>" for each in items[:_MOST])
    return f"<h3>{escape(what)} ({len(items)})</h3><ul>{rows}</ul>{_cut(len(items))}"


def _cut(count: int) -> str:
    return f"<p>… and {count - _MOST} more: --json has them all.</p>" if count > _MOST else ""


def _number(figure: object, *, bad: bool = False) -> str:
    marked = ' bad"' if bad and figure else '"'
    return f'<td class="n{marked}>{escape(str(figure))}</td>'


def _meter(order: OrderStatus, status: FleetStatus) -> str:
    return (
        f'<td><meter min="0" max="{max(status.enrolled, 1)}" value="{len(order.stated)}">'
        f"{len(order.stated)} of {status.enrolled}</meter></td>"
    )


def _time(text: str) -> str:
    shown = escape(text.replace("T", " ").replace("Z", " UTC"))
    return f'<time datetime="{escape(text)}">{shown}</time>'
