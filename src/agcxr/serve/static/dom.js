// A few words for what every part of the page does with its elements.

export const $ = (id) => document.getElementById(id);

/** Told to screen readers. */
export const say = (text) => { $("live").textContent = text; };

export function element(tag, { text, ...attributes } = {}, ...children) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
