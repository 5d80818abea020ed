import { Connection, findEdge, showState } from '/nabat-lite.js';

const $ = (id) => document.getElementById(id);
const edge = await findEdge();
const socket = edge.replace(/^http/, 'ws');

$('line-curl').textContent = `curl -N '${edge}/sse?room=sports.news'`;
$('line-ws').textContent = `new WebSocket('${socket}/ws?room=sports.news').onmessage = (e) => console.log(e.data);`;
$('line-sse').textContent = `new EventSource('${edge}/sse?room=sports.news').onmessage = (e) => console.log(e.data);`;

const connection = new Connection(edge);
showState(connection, $('state'));
connection.join('sports.news');
connection.addEventListener('message', ({ detail }) => {
  $('empty').hidden = true;
  const item = document.createElement('li');
  item.className = 'item';
  const code = document.createElement('code');
  code.textContent = JSON.stringify(detail.data ?? detail.text ?? detail.base64);
  item.append(code);
  $('feed').prepend(item);
  while ($('feed').children.length > 8) $('feed').lastChild.remove();
});
