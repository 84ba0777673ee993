"""A press at the very moment at which the last run ends is answered, too.

Gradio tells what its queue does over a stream, which the server closes once nothing is left to tell. A press that comes to
the server just after that, while the window has not heard of it yet, would wait for an answer on a stream that is gone.
"""

SCRIPT = """
(() => {
  const plain = window.fetch, named = /"event_id":"(\\\\w+)"/g;
  let stream = null;  // the latest: of which events it told, and whether it is over
  const follow = async (body, own) => {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    try {
      for (let rest = '', part = await reader.read(); !part.done; part = await reader.read()) {
        const text = rest + part.value;
        for (const found of text.matchAll(named)) own.told.add(found[1]);
        rest = text.slice(-60);  // an event may be named across two parts
        own.news.dispatchEvent(new Event('news'));
      }
    } catch { }  // the window itself ended it
    setTimeout(() => { own.over = true; own.news.dispatchEvent(new Event('news')); });
  };
  // the answer to a press goes on once the stream tells of it, so that it is heard, or is over, so that a new one is opened
  const heard = async (own, id) => {
    while (own && !own.over && !own.told.has(id)) {
      await new Promise((go) => own.news.addEventListener('news', go, {once: true}));
    }
  };
  window.fetch = async (...given) => {
    const path = new URL(given[0]?.url ?? given[0], location.href).pathname;
    if (path.endsWith('/queue/join')) {
      const answer = await plain(...given);
      if (answer.ok) await heard(stream, (await answer.clone().json()).event_id);
      return answer;
    }
    if (!path.endsWith('/queue/data')) return plain(...given);
    const own = stream = {told: new Set(), over: false, news: new EventTarget()};
    try {
      const answer = await plain(...given), [shown, followed] = answer.body.tee();
      follow(followed, own);
      return new Response(shown, answer);
    } catch (error) {
      own.over = true;
      own.news.dispatchEvent(new Event('news'));
      throw error;
    }
  };
})();
"""
