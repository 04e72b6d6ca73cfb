// viser's meshes whose vertices move have no texture, and its textured ones cannot move. So the person is sent as both:
// "/person/skin" is textured, "/person/pose" is hidden and gets the vertices, and the first is drawn with the vertices
// of the second. Both buffers have the same vertices in the same order.
const UNLIT = ["/person/skin", "/background/relief"];

// viser keeps what it shows in a React context around its canvas.
function viewer() {
  for (const canvas of document.querySelectorAll("canvas")) {
    const key = Object.keys(canvas).find((name) => name.startsWith("__reactFiber$"));
    for (let fiber = key && canvas[key]; fiber; fiber = fiber.return) {
      const state = fiber.memoizedProps?.value?.mutable?.current;
      if (state?.nodeRefFromName) return state;
    }
  }
  return undefined;
}

function meshOf(node) {
  let found;
  node?.traverse((each) => {
    if (!found && each.isMesh) found = each;
  });
  return found;
}

function tie() {
  const shown = viewer();
  if (!shown) return;
  const nodes = shown.nodeRefFromName;
  let changed = false;
  const skin = meshOf(nodes["/person/skin"])?.geometry;
  const posed = meshOf(nodes["/person/pose"])?.geometry?.attributes.position;
  if (skin && posed && skin.attributes.position !== posed && skin.attributes.position.count === posed.count) {
    skin.setAttribute("position", posed);
    meshOf(nodes["/person/skin"]).frustumCulled = false;
    changed = true;
  }
  for (const name of UNLIT) {
    const material = meshOf(nodes[name])?.material;
    if (material?.toneMapped) {
      material.toneMapped = false; // colours as they are on the canvas
      material.needsUpdate = true;
      changed = true;
    }
  }
  if (changed) shown.requestRender?.();
}

clearInterval(window.canonTie);
window.canonTie = setInterval(tie, 30);
