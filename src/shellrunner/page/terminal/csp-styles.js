/* A replacement for the styles that xterm.js injects. It writes its colours into <style> elements and style attributes,
   which this page's Content-Security-Policy forbids, because injected styles can exfiltrate a page's content. Styles
   that scripts set through the CSSOM are allowed: so a "style" element becomes a constructed style sheet, and the style
   attribute of a "span" becomes its style object. */

const createElement = Document.prototype.createElement.bind(document);

function createStyleSheet() {
  const sheet = new CSSStyleSheet();
  document.adoptedStyleSheets.push(sheet);
  // xterm.js inserts and removes it as if it were the element.
  return Object.defineProperty(createElement("template"), "textContent", { set: (text) => sheet.replaceSync(text) });
}

function createSpan() {
  const span = createElement("span");
  span.setAttribute = function setAttribute(name, value) {
    if (name === "style") this.style.cssText = value;
    else Element.prototype.setAttribute.call(this, name, value);
  };
  return span;
}

/** Replace this document's createElement. */
export function installCspStyles() {
  document.createElement = (tag, options) => {
    if (tag === "style") return createStyleSheet();
    return tag === "span" ? createSpan() : createElement(tag, options);
  };
}
