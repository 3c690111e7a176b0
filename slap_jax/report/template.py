"""Style sheet and script of the report page. Colours are named by role, so that light and dark differ here alone."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f7f6f2; --surface: #fffefb; --ink: #1f2529; --muted: #626b73; --line: #dfddd5; --accent: #2b6a99;
  --total: #4a5560; --contrastive: #2b6a99; --distillation: #b3582a; --captioning: #4d7c3a;
  --right: #3d7a3a; --wrong: #a8462f; --soft: #eceae3;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171a; --surface: #1b1f23; --ink: #e6e6e1; --muted: #9aa3ab; --line: #31373d; --accent: #7fb4de;
    --total: #aab4bd; --contrastive: #7fb4de; --distillation: #e0986b; --captioning: #98c486;
    --right: #8cc487; --wrong: #e58f78; --soft: #262b30;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.55;
  font: 16px/1.55 ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main, header, footer { max-width: 70rem; margin: 0 auto; padding: 0 1.5rem; }
header { padding-top: 3rem; }
h1 { font-size: clamp(1.8rem, 4.5vw, 2.7rem); line-height: 1.15; letter-spacing: -0.02em; margin: 0.2rem 0 0.8rem; }
h2 { font-size: 1.4rem; letter-spacing: -0.01em; margin: 3.4rem 0 0.4rem; padding-top: 1.2rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.8rem 0 0.5rem; }
p { max-width: 46rem; margin: 0.4rem 0 1rem; }
.eyebrow { color: var(--muted); font-size: 0.85rem; margin: 0; }
.deck { font-size: 1.1rem; max-width: 50rem; }
.note { color: var(--muted); font-size: 0.9rem; }
.absent { color: var(--muted); border-left: 3px solid var(--line); padding: 0.3rem 0.9rem; }
nav { display: flex; flex-wrap: wrap; gap: 0.3rem 1.1rem; font-size: 0.9rem; margin: 1.4rem 0 0; }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
code { font: 0.88em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
dl.facts { display: grid; grid-template-columns: repeat(6, 1fr); gap: 1px; margin: 1.6rem 0 0;
  background: var(--line); border: 1px solid var(--line); border-radius: 8px; overflow: hidden; }
dl.facts div { background: var(--surface); padding: 0.75rem 0.95rem; }
dl.facts dt { color: var(--muted); font-size: 0.8rem; }
dl.facts dd { margin: 0; font-size: 1.22rem; font-weight: 600; letter-spacing: -0.01em; white-space: nowrap; }
dl.facts small { display: block; letter-spacing: 0; font-size: 0.78rem; font-weight: 400; color: var(--muted); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.92rem; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 500; color: var(--muted); font-size: 0.82rem; white-space: nowrap; }
th, td { padding: 0.45rem 0.9rem 0.45rem 0; border-bottom: 1px solid var(--line); vertical-align: middle; }
td.number, th.number { text-align: right; white-space: nowrap; }
td strong { font-size: 1.05rem; }
td.name { font-weight: 600; } .note { font-weight: 400; } .nowrap, td.rowhead { white-space: nowrap; }
.strip { width: 11rem; min-width: 8rem; display: block; }
.figures { display: grid; gap: 1.4rem 1.5rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 14.8rem), 1fr)); }
.masks { grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); }
figure { margin: 0; }
figcaption { font-size: 0.88rem; color: var(--muted); }
.panel figcaption { display: flex; flex-wrap: wrap; gap: 0 0.6rem; justify-content: space-between; color: var(--ink); }
.panel figcaption b { font-variant-numeric: tabular-nums; font-weight: 600; }
.panel figcaption small { flex-basis: 100%; color: var(--muted); font-size: 0.8rem; min-height: 1.2em; }
svg.figure { display: block; width: 100%; height: auto; }
svg.figure text { font-family: inherit !important; }
.wide { min-width: 46rem; }
ol.owners { list-style: none; padding: 0; margin: 1rem 0 0; columns: 22rem 2; column-gap: 2rem; font-size: 0.88rem; }
ol.owners li { break-inside: avoid; display: flex; gap: 0.6rem; padding: 0.14rem 0; }
ol.owners b { flex: none; width: 1.6rem; height: 1.35rem; border-radius: 4px; text-align: center;
  font-size: 0.78rem; font-weight: 600; line-height: 1.35rem; }
ol.owners small { color: var(--muted); white-space: nowrap; }
.queries { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 1.2rem;
  align-items: start; }
.card { background: var(--surface); border: 1px solid var(--line); border-radius: 8px; padding: 0.9rem 1rem 1rem; }
.card h4 { margin: 0 0 0.2rem; font-size: 1rem; font-weight: 600; line-height: 1.35; overflow-wrap: anywhere; }
.card .verdict { font-size: 0.84rem; margin: 0 0 0.6rem; color: var(--muted); }
.right { color: var(--right); } .wrong { color: var(--wrong); }
.clip { display: grid; grid-template-columns: 2.2rem 1fr; gap: 0.15rem 0.6rem; padding: 0.5rem 0; align-items: center;
  border-top: 1px solid var(--line); }
.clip p { grid-column: 2; margin: 0; font-size: 0.84rem; line-height: 1.4; overflow-wrap: anywhere; }
.clip .mark { font-weight: 600; }
.clip button { width: 2.2rem; height: 2.2rem; border-radius: 50%; border: 1px solid var(--line); cursor: pointer;
  background: var(--soft); color: var(--ink); font-size: 0.8rem; line-height: 1; padding: 0; }
.clip button:hover { border-color: var(--accent); } .clip button:focus-visible { outline: 2px solid var(--accent); }
.sound { position: relative; height: 2.2rem; border-radius: 4px; overflow: hidden; background: #0a0612; }
.sound img { display: block; height: 100%; image-rendering: auto; }
.sound i { position: absolute; top: 0; bottom: 0; left: 0; width: 2px; background: #fff; opacity: 0; }
.playing .sound i { opacity: 0.9; }
.captions td { vertical-align: top; } .captions .clip { border: 0; padding: 0; min-width: 13rem; }
.captions td p { margin: 0 0 0.25rem; font-size: 0.9rem; }
details { margin: 0.8rem 0; } summary { cursor: pointer; color: var(--accent); font-size: 0.92rem; }
pre { overflow: auto; max-height: 28rem; background: var(--surface); border: 1px solid var(--line); border-radius: 8px;
  padding: 0.9rem; font: 0.8rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
footer { margin-top: 3rem; padding-bottom: 3rem; color: var(--muted); font-size: 0.88rem; }
@media (max-width: 64rem) { dl.facts { grid-template-columns: repeat(3, 1fr); } }
@media (max-width: 26rem) { dl.facts { grid-template-columns: repeat(2, 1fr); } }
@media (max-width: 40rem) {
  main, header, footer { padding-left: 1rem; padding-right: 1rem; } header { padding-top: 1.6rem; }
  h2 { margin-top: 2.4rem; } dl.facts dd { font-size: 1.1rem; }
  .captions thead { display: none; }
  .captions tr { display: block; padding: 0.7rem 0; border-bottom: 1px solid var(--line); }
  .captions td { display: block; border: 0; padding: 0.15rem 0; }
  .captions td[data-label]::before { content: attr(data-label); color: var(--muted); font-size: 0.78rem; }
}
@media print { nav, button { display: none; } .card { break-inside: avoid; } }
"""

SCRIPT = """
document.querySelectorAll(".clip").forEach(function (clip) {
  var button = clip.querySelector("button"), sound = clip.querySelector("audio"), head = clip.querySelector(".sound i");
  var picture = clip.querySelector(".sound img"), strip = clip.querySelector(".sound");
  if (!button || !sound) return;
  function show(playing) {
    clip.classList.toggle("playing", playing);
    button.textContent = playing ? "\\u25A0" : "\\u25B6";
  }
  function follow() {
    var width = picture ? picture.clientWidth : strip.clientWidth;
    if (head && sound.duration) head.style.left = (sound.currentTime / sound.duration) * width + "px";
    if (!sound.paused) requestAnimationFrame(follow);
  }
  button.addEventListener("click", function () {
    if (!sound.paused) { sound.pause(); return; }
    document.querySelectorAll("audio").forEach(function (other) { if (other !== sound) other.pause(); });
    sound.currentTime = 0;
    sound.play();
  });
  if (strip) strip.addEventListener("click", function (event) {
    var box = (picture || strip).getBoundingClientRect();
    if (!sound.duration) { button.click(); return; }
    sound.currentTime = Math.min(1, (event.clientX - box.left) / box.width) * sound.duration;
    if (sound.paused) {
      document.querySelectorAll("audio").forEach(function (other) { if (other !== sound) other.pause(); });
      sound.play();
    }
  });
  sound.addEventListener("play", function () { show(true); follow(); });
  sound.addEventListener("pause", function () { show(false); });
  sound.addEventListener("ended", function () { show(false); });
});
"""


def page(title: str, header: str, body: str, footer: str) -> str:
    """The whole page; every part is HTML that is already escaped."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<header>{header}</header>\n<main>{body}</main>\n<footer>{footer}</footer>\n"
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )
