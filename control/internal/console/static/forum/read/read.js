import { kept } from '/forum/items.js';

const $ = (id) => document.getElementById(id);
const item = kept().find((i) => i.id === new URLSearchParams(location.search).get('id'));
if (item) {
  document.title = `${item.title} · Nabat`;
  $('title').textContent = item.title;
  $('meta').textContent = `${item.topic} · ${item.author} · ${new Date(item.at).toLocaleString()}`;
  $('body').textContent = item.body;
} else {
  $('title').textContent = 'This item is not here';
  $('body').textContent = 'It was received in another browser, or too long ago: open its topic in the forum again.';
}
