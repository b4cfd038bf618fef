"""The look of a page: no file beside it, no font but the reader's own."""

from charlm_jax.report.html.colours import SERIES, heat_rules, variables

_RULES = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0 auto;max-width:76rem;padding:1.25rem clamp(.9rem,3vw,2rem) 4rem;
background:var(--page);color:var(--ink);font:1rem/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:clamp(1.25rem,4.5vw,1.6rem);line-height:1.2;margin:.4rem 0 1rem}
h2{font-size:1.2rem;margin:2.4rem 0 .6rem;padding-top:.6rem;border-top:1px solid var(--line)}
h3{font-size:1rem;margin:1.4rem 0 .4rem}
p{margin:.5rem 0;max-width:46rem}
a{color:var(--link)}
.note,caption,figcaption{color:var(--soft);font-size:.875rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1rem;margin:0}
dt{color:var(--soft)}
dd{margin:0}
@media (max-width:30rem){dl{grid-template-columns:1fr;gap:0}dt{margin-top:.4rem}}
code,.text,.heat,.commands{font-family:ui-monospace,"SF Mono","DejaVu Sans Mono",Menlo,Consolas,
monospace;font-size:.85rem}
.text,.heat,.commands{white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:plaintext;
background:var(--box);padding:.6rem .7rem;border-radius:4px;margin:.4rem 0}
.text b{color:var(--link)}
.commands{white-space:pre;overflow-x:auto;overflow-wrap:normal}
.scroll{overflow-x:auto;margin:.8rem 0;background:
linear-gradient(to left,var(--page) 40%,transparent) right/2.5rem 100% no-repeat local,
linear-gradient(to left,var(--line),transparent) right/.8rem 100% no-repeat scroll}
:focus-visible{outline:2px solid var(--link);outline-offset:1px}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
caption{text-align:left;padding-bottom:.3rem}
caption span{display:block;position:sticky;left:0;max-width:min(46rem,100vw - 2rem)}
th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid var(--line);
overflow-wrap:normal;white-space:nowrap;vertical-align:baseline}
th{white-space:normal;overflow-wrap:break-word;min-width:4.5rem;max-width:15rem;vertical-align:bottom}
th.t,td.t{text-align:left}
th:first-child{padding-left:0;position:sticky;left:0;background:var(--page);
min-width:min(9rem,32vw);max-width:min(22rem,48vw)}
tbody th{font-weight:500;vertical-align:baseline}
tbody+tbody{color:var(--soft)}
.bar{display:block;height:.3rem;background:var(--line);min-width:7rem;margin-top:.1rem}
.bar i{display:block;height:100%}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr));
gap:1rem 2rem}
.maps{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,34rem),1fr));
gap:0 1rem}
figure{margin:.6rem 0;min-width:0}
figure img{max-width:100%;height:auto;background:#fff}
.chart{display:block;width:100%;max-width:30rem;height:auto}
.chart text{font:12px system-ui,sans-serif;fill:var(--ink);paint-order:stroke;
stroke:var(--page);stroke-width:4px;stroke-linejoin:round}
.chart line{stroke-width:1}
.grid{stroke:var(--line)}
.axis{stroke:var(--soft)}
.across{stroke:var(--soft);stroke-dasharray:4 3}
.chart .whisker{stroke:inherit;stroke-width:2}
.chart path,.swatch path{fill:none;stroke-width:1.6;stroke-linejoin:round}
.chart .band{stroke:none;fill-opacity:.16}
.chart .hollow,.swatch .hollow{fill:var(--page);stroke-width:1.2}
.swatch{width:2rem;height:.75rem;vertical-align:middle;margin-right:.4rem;flex:none}
.legend{list-style:none;padding:0;margin:.3rem 0;display:flex;flex-wrap:wrap;gap:.15rem 1.2rem;
font-size:.875rem}
.legend li{display:flex;align-items:center}
.side{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,19rem),1fr));
gap:.4rem 1rem}
.side h3{font-size:.9rem;font-weight:500;margin:.3rem 0 0;color:var(--soft)}
.heat{line-height:1.65;background:none;border:1px solid var(--line)}
@media (min-width:72rem){.maps .heat{font-size:.75rem}}
.heat i{opacity:.4;font-style:normal}
.heat .none{color:var(--soft);text-decoration:underline dotted}
.heat span:hover{outline:2px solid var(--ink);outline-offset:-1px}
.scale{display:flex;flex-wrap:wrap;gap:0;font-size:.8rem;align-items:center;max-width:none}
.scale span{padding:.1rem .45rem}
summary{cursor:pointer;margin:.5rem 0}
@media (hover:none){.heat span:hover::after{content:attr(title);position:fixed;left:0;right:0;
bottom:0;padding:.7rem;text-align:center;white-space:pre-line;background:var(--ink);
color:var(--page);font:1rem system-ui,sans-serif}}
@media print{.scroll,.commands{overflow:visible}.heat span,.scale span,.bar,.bar i{
print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""


def style() -> str:
    """The whole style sheet, for both themes."""
    series = "".join(
        f".s{n} path,.s{n} circle,.s{n} .whisker{{stroke:var(--c{n})}}"
        f".chart .f{n},.swatch .f{n}{{fill:var(--c{n})}}.bar .f{n}{{background:var(--c{n})}}"
        for n in range(len(SERIES["light"]))
    )
    return (
        f":root{{color-scheme:light dark;{variables('light')}}}\n"
        f"@media (prefers-color-scheme:dark){{:root{{{variables('dark')}}}}}"
        f"{_RULES}{series}\n{heat_rules()}\n"
    )
