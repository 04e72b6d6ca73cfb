/**
 * The viewer's two elements. Load it once: <script type="module" src="/canon/assets/canon.js"></script>
 *
 * <canon-inspector>: look at a fit.
 *   await element.open({fit, edits = [], frame})   fit: name, or nothing for the one made last
 *   element.edits = ["a", "b"]                     the stack that "edited" shows
 *   element.frame                                  number of the frame shown; may be set
 *   element.play(), element.pause(), element.refresh()   refresh: something changed on disk
 *   events: "canon-opened" {fit}, "canon-frame" {frame}, "canon-error" {message}
 *
 * <canon-painter>: paint on a canvas or on a frame.
 *   await element.open({fit, layer, segment = 0, frame, edits = [], draft, edit})
 *       layer and segment: the canvas to paint on; frame: the frame to preview; onFrame: true = paint on that frame;
 *       draft: id of a drawing to go on with; without it the tab's own drawing on that fit, or a new one;
 *       edit: name of an edit that was painted here, whose layers come back in a new drawing (instead of fit and draft)
 *   element.draft                                  id of the tab's drawing (made by the server), null before open()
 *   element.fit, element.edits, element.empty      what is painted on, the stack below, whether nothing is painted
 *   await element.setEdits([...])                  another stack below
 *   await element.flush()                          until the server has everything that was painted
 *   await element.undo(), element.redo()
 *   await element.save(name, replace = false)      throws an Error with the server's sentence
 *   await element.startAnew()                      an empty drawing
 *   await element.importFile(file), element.exportAs("ora" | "psd" | "png")
 *   element.refresh()                              something changed on disk
 *   events: "canon-opened" {fit, draft}, "canon-changed" {draft, revision, empty}, "canon-saved" {name},
 *           "canon-error" {message}
 *
 * Both fill the window's height unless style says otherwise, and follow gradio's theme (class "dark" on <body>), or the
 * system's where there is no gradio. Events bubble and leave the shadow tree; what they carry is in event.detail.
 */
import { CanonInspector } from "./inspector.js";
import { CanonPainter } from "./painter.js";

if (!customElements.get("canon-inspector")) customElements.define("canon-inspector", CanonInspector);
if (!customElements.get("canon-painter")) customElements.define("canon-painter", CanonPainter);
