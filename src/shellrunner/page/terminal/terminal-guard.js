/* Escape sequences that the terminal ignores, because output could use them to capture the mouse, to change the page's
   colours, to create links, or to block xterm.js in a loop; and, in output that is displayed again, those that a terminal
   answers, because the answers would be typed into the command. It needs the terminal's parser only. */

// Mouse reporting would disable selecting, and a job that was cancelled may have left it on.
const MOUSE_MODES = new Set([9, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1015, 1016]);
// Insert and delete lines, scroll up and down, tab forwards and backwards, repeat a character: xterm.js loops over the
// count, which may be two billion, and the page would be blocked for that long.
const REPEATED = ["L", "M", "S", "T", "I", "Z", "b"];
const MAX_REPEAT = 500; // more than the terminal has rows
// OSC 8 creates links to other sites. OSC 4 and 10 to 12 set colours that RIS does not reset, so that the next job's
// output would have them too. Titles (0 to 2) and the clipboard (52) are nobody's here, and must not become an addon's.
const IGNORED_OSC = [0, 1, 2, 4, 8, 10, 11, 12, 52];

// Attributes, cursor position and status, modes, settings, version: see "Device-Status" in XTerm Control Sequences.
const CSI_QUERIES = [
  { final: "c" }, { prefix: ">", final: "c" }, { prefix: "=", final: "c" }, { final: "n" }, { prefix: "?", final: "n" },
  { intermediates: "$", final: "p" }, { prefix: "?", intermediates: "$", final: "p" }, { prefix: ">", final: "q" },
];
const DCS_QUERY = { intermediates: "$", final: "q" };

/** Register handlers that ignore these sequences; `isReplay()` is whether the output is displayed again. A handler that
    returns true ends the processing of its sequence. */
export function guardTerminal(parser, isReplay) {
  parser.registerCsiHandler({ prefix: "?", final: "h" }, (modes) => modes.length === 1 && MOUSE_MODES.has(modes[0]));
  for (const final of REPEATED) parser.registerCsiHandler({ final }, ([count]) => count > MAX_REPEAT);
  for (const query of CSI_QUERIES) parser.registerCsiHandler(query, isReplay);
  parser.registerDcsHandler(DCS_QUERY, isReplay);
  for (const number of IGNORED_OSC) parser.registerOscHandler(number, () => true);
}
