// The sentences of scripts, in the page's language: the table [script] of the sentences.

const words = JSON.parse(document.body.dataset.words);

/** A sentence with {names} filled in; with count 1 the sentence KEY.one, if there is one. */
export function say(key, values = {}) {
  const found = (values.count === 1 && words[`${key}.one`]) || words[key];
  if (found === undefined) throw new Error(`no sentence ${key}`);
  return found.replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
}

const language = document.documentElement.lang;

/** The page's language as the reader's country writes it, such as en-GB. */
export const locale = navigator.languages.find((one) => one.split("-")[0] === language) ?? language;
