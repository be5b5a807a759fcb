/* xterm.js writes its colours into <style> elements and style attributes, which this page's Content-Security-Policy
   allows to nobody: injected styles can read a page out. What scripts set on a sheet or a style object is allowed. So
   for xterm a "style" element is a sheet, and the style attribute of a "span" is its style object. */

const create = Document.prototype.createElement.bind(document);

function sheet() {
  const own = new CSSStyleSheet();
  document.adoptedStyleSheets.push(own);
  // It is put into the page and taken out again as if it were the element.
  return Object.defineProperty(create("template"), "textContent", { set: (text) => own.replaceSync(text) });
}

function span() {
  const element = create("span");
  element.setAttribute = function set(name, value) {
    if (name === "style") this.style.cssText = value;
    else Element.prototype.setAttribute.call(this, name, value);
  };
  return element;
}

/** Have this page's own document make such elements from now on. */
export function keepStylesStrict() {
  document.createElement = (tag, options) => {
    if (tag === "style") return sheet();
    return tag === "span" ? span() : create(tag, options);
  };
}
