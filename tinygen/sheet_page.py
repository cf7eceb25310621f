"""The page of a pair sheet: one file of HTML that shows pairs, takes answers, and hands them back as JSON.

It holds the pictures, their order and the question; which of a pair is whose is nowhere in it.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence

STYLE = """
:root{color-scheme:light dark;--ink:#1a1a1a;--paper:#fff;--line:#ccc;--soft:#666;--mark:#2166ac}
@media(prefers-color-scheme:dark){:root{--ink:#e6e6e6;--paper:#151515;--line:#444;--soft:#999;--mark:#7fb3e6}}
*{box-sizing:border-box}body{font:17px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:0 auto;
max-width:62rem;padding:1.2rem;min-height:100vh;display:flex;flex-direction:column}
h1{font-size:1.35rem;margin:.2rem 0 .8rem;text-align:center}
#bar{height:.4rem;background:var(--line);border-radius:.2rem;overflow:hidden}
#bar div{height:100%;width:0;background:var(--mark)}
#count,.soft{color:var(--soft);font-size:.9rem}#count{margin:.3rem 0 .8rem;text-align:right}
#pair{display:grid;grid-template-columns:1fr 1fr;gap:1.2rem}
#pair button{padding:.7rem;border:2px solid var(--line);border-radius:.6rem;background:none;color:inherit;font:inherit;
cursor:pointer}#pair button:hover,#pair button:focus-visible{border-color:var(--mark);outline:none}
#pair img{display:block;width:100%;aspect-ratio:1;object-fit:contain;image-rendering:pixelated;margin-bottom:.5rem}
#more{display:flex;justify-content:center;gap:.8rem;margin:1rem 0;flex-wrap:wrap}
#more button,#end button,#end a{padding:.45rem 1rem;border:1px solid var(--line);border-radius:.5rem;background:none;
color:inherit;font:inherit;cursor:pointer;text-decoration:none;display:inline-block;margin:0 .6rem .6rem 0}
#end a{border-color:var(--mark);color:var(--mark)}kbd{border:1px solid var(--line);border-radius:.25rem;
padding:0 .35rem;font:.85em ui-monospace,monospace}
textarea{width:100%;height:9rem;font:.8rem ui-monospace,monospace;color:inherit;background:none;
border:1px solid var(--line)}[hidden]{display:none!important}
"""

BODY = """
<h1 id=question></h1>
<main id=ask>
<div id=bar role=progressbar><div></div></div><div id=count aria-live=polite></div>
<div id=pair>
<button id=left aria-label="the left picture"><img id=a alt="left picture"><kbd>&larr;</kbd> left</button>
<button id=right aria-label="the right picture"><img id=b alt="right picture">right <kbd>&rarr;</kbd></button>
</div>
<div id=more><button id=tie>cannot tell <kbd>space</kbd></button>
<button id=back>one back <kbd>backspace</kbd></button><button id=stop>stop here</button></div>
<p class=soft>Choose by a click or with the arrow keys. Which picture stands on which side is random; the answers are
kept in this browser until you save them.</p>
</main>
<main id=end hidden>
<p id=thanks></p>
<p><a id=save>Save the answers</a> <button id=again>go on answering</button></p>
<p class=soft>Send the saved file to whoever gave you this page. If saving does not work here, copy this text into a
file of that name:</p>
<textarea id=text readonly aria-label="the answers as text"></textarea>
</main>
"""

# The checksum is 32-bit FNV-1a over what tinygen.sheet joins in the same way.
SCRIPT = """
const $=id=>document.getElementById(id),N=SHEET.pairs.length,store='tinygen-sheet-'+SHEET.sheet;
let answers=[],shown=0,began=new Date().toISOString();
try{const kept=JSON.parse(localStorage.getItem(store));if(kept&&Array.isArray(kept.answers)&&kept.answers.length<=N){
answers=kept.answers;began=kept.began}}catch(e){}
function keep(){try{localStorage.setItem(store,JSON.stringify({answers,began}))}catch(e){}}
function checksum(text){let h=0x811c9dc5;for(const c of new TextEncoder().encode(text))h=Math.imul(h^c,0x01000193)>>>0;
return h.toString(16).padStart(8,'0')}
function result(){const ended=new Date().toISOString();
const line=[SHEET.sheet,began,ended,...answers.map(a=>a.choice+' '+a.ms)].join('\\n');
return JSON.stringify({tinygen:'answers to a pair sheet',version:1,sheet:SHEET.sheet,began,ended,
answers:answers.map((a,i)=>({pair:i,choice:a.choice,ms:a.ms})),checksum:checksum(line)},null,1)+'\\n'}
function show(){const i=answers.length;$('ask').hidden=i>=N;$('end').hidden=i<N;if(i>=N)return finish();
$('a').src=SHEET.pictures[SHEET.pairs[i][0]];$('b').src=SHEET.pictures[SHEET.pairs[i][1]];
$('count').textContent='pair '+(i+1)+' of '+N;$('bar').firstElementChild.style.width=100*i/N+'%';
$('bar').setAttribute('aria-valuenow',i);$('bar').setAttribute('aria-valuemax',N);
$('back').disabled=i===0;shown=performance.now()}
function choose(choice){if($('ask').hidden)return;const ms=Math.round(performance.now()-shown);
if(ms<SHEET.pause)return;answers.push({choice,ms});keep();show()}
function back(){if(answers.length){answers.pop();keep();show()}}
function finish(){const text=result();$('ask').hidden=true;$('end').hidden=false;$('text').value=text;
const n=answers.length;$('thanks').textContent=n>=N?'Thank you. All '+N+' pairs are answered.'
:n+' of '+N+' pairs are answered; fewer will do, but more tell more.';$('again').hidden=n>=N;
$('save').href=URL.createObjectURL(new Blob([text],{type:'application/json'}));
$('save').download='answers-'+SHEET.sheet.slice(0,8)+'.json'}
$('left').onclick=()=>choose('left');$('right').onclick=()=>choose('right');$('back').onclick=back;
$('tie').onclick=()=>choose('tie');$('stop').onclick=finish;$('again').onclick=show;$('tie').hidden=!SHEET.ties;
addEventListener('keydown',e=>{if(e.repeat||e.ctrlKey||e.altKey||e.metaKey)return;
const act={ArrowLeft:()=>choose('left'),ArrowRight:()=>choose('right'),Backspace:back,
' ':()=>SHEET.ties&&choose('tie')}[e.key];if(act&&!$('ask').hidden){e.preventDefault();act()}});
$('question').textContent=SHEET.question;show();
"""


def page(sheet: str, question: str, pictures: Sequence[str], pairs: Sequence[tuple[int, int]], ties: bool,
         pause: int = 200) -> str:  # fmt: skip
    """The whole page. pictures: data URIs; pairs: (left, right), indices into them; pause: milliseconds within which a
    second answer counts as a slip of the finger."""
    table = {"sheet": sheet, "question": question, "ties": ties, "pause": pause, "pairs": list(map(list, pairs)),
             "pictures": list(pictures)}  # fmt: skip
    # "</" would end the script, whatever string it stands in
    data = json.dumps(table, ensure_ascii=False).replace("</", "<\\/")
    head = "<meta charset=utf-8><meta name=viewport content='width=device-width'><meta name=robots content=noindex>"
    head += f"<title>{html.escape(question)}</title><style>{STYLE}</style>"
    return (f"<!doctype html><html lang=en><head>{head}</head><body>"
            f"{BODY}<script>const SHEET={data};{SCRIPT}</script></body></html>\n")  # fmt: skip
