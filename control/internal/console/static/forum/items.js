// What this browser has received, for the pages that notifications link to: also
// those items that have left their room's history.
const key = 'forum-items';

export function kept() { return JSON.parse(localStorage.getItem(key) || '[]'); }

export function keep(item) {
  const items = kept().filter((i) => i.id !== item.id);
  items.push(item);
  localStorage.setItem(key, JSON.stringify(items.slice(-100)));
}
