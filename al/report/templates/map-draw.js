"use strict";
// Two ways to draw many points: WebGL 2, and a 2-D canvas where there is none. Both take the same points, view and style.
//   points: x, y (Uint16Array, 0 … 65535 of the map's side)
//   view:   width, height (CSS pixels), ratio (device pixels per CSS pixel), side (CSS pixels of the map's side), left, top (of its
//           corner), grown (how much larger than at first points are)
//   style:  color (Uint8Array, RGBA), size (Uint8Array, quarters of a CSS pixel, and 128 for an edge), order (Uint32Array, last on top),
//           edge ([r, g, b]); an edge shows from 5 pixels on
winnow.drawers = (() => {
  const EDGED = 128;
  const SHOWN = 5;
  const vertex = `#version 300 es
    in float x; in float y; in float size; in vec4 color;
    uniform vec2 scale; uniform vec2 shift; uniform float ratio; uniform float grown;
    out vec4 fill; out float diameter; out float edged;
    void main() {
      gl_Position = vec4(vec2(x, y) * scale + shift, 0.0, 1.0);
      diameter = mod(size, 128.0) * 0.25 * grown * ratio;
      edged = size >= 128.0 && diameter >= 5.0 * ratio ? 1.0 : 0.0;
      gl_PointSize = diameter;
      fill = color;
    }`;
  const fragment = `#version 300 es
    precision highp float;
    in vec4 fill; in float diameter; in float edged;
    uniform vec3 edge; uniform float ratio;
    out vec4 result;
    void main() {
      float radius = length(gl_PointCoord - 0.5) * diameter;
      float alpha = fill.a * clamp(diameter * 0.5 - radius + 0.5, 0.0, 1.0);
      if (alpha <= 0.0) discard;
      float inEdge = edged * clamp(radius - diameter * 0.5 + 1.6 * ratio, 0.0, 1.0);
      result = vec4(mix(fill.rgb, edge, inEdge) * alpha, alpha);
    }`;

  function program(gl) {
    const made = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(made, shader);
    }
    gl.linkProgram(made);
    if (!gl.getProgramParameter(made, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(made) || "no shader");
    return made;
  }

  function webgl(canvas, points) {
    const gl = canvas.getContext("webgl2", { antialias: false, preserveDrawingBuffer: true });
    if (!gl) return null;
    const used = program(gl);
    gl.useProgram(used);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    const buffers = {};
    const attribute = (name, values, size, kind, normalized) => {
      buffers[name] ??= gl.createBuffer();
      gl.bindBuffer(gl.ARRAY_BUFFER, buffers[name]);
      gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
      const at = gl.getAttribLocation(used, name);
      gl.enableVertexAttribArray(at);
      gl.vertexAttribPointer(at, size, kind, normalized, 0, 0);
    };
    attribute("x", points.x, 1, gl.UNSIGNED_SHORT, true);
    attribute("y", points.y, 1, gl.UNSIGNED_SHORT, true);
    const order = gl.createBuffer();
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, order);
    const uniform = (name) => gl.getUniformLocation(used, name);
    let count = 0;
    return {
      kind: "webgl",
      restyle(style) {
        attribute("color", style.color, 4, gl.UNSIGNED_BYTE, true);
        attribute("size", style.size, 1, gl.UNSIGNED_BYTE, false);
        gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, style.order, gl.STATIC_DRAW);
        gl.uniform3fv(uniform("edge"), style.edge.map((part) => part / 255));
        count = style.order.length;
      },
      draw(view) {
        const { width, height, ratio, side, left, top, grown } = view;
        gl.viewport(0, 0, canvas.width, canvas.height);
        gl.uniform2f(uniform("scale"), (2 * side) / width, (2 * side) / height);
        gl.uniform2f(uniform("shift"), (2 * left) / width - 1, 1 - (2 * (top + side)) / height);
        gl.uniform1f(uniform("ratio"), ratio);
        gl.uniform1f(uniform("grown"), grown);
        gl.clearColor(0, 0, 0, 0);
        gl.clear(gl.COLOR_BUFFER_BIT);
        gl.drawElements(gl.POINTS, count, gl.UNSIGNED_INT, 0);
      },
    };
  }

  function plain(canvas, points) {
    const context = canvas.getContext("2d");
    let style = null;
    return {
      kind: "canvas",
      restyle(next) { style = next; },
      draw(view) {
        const { width, height, ratio, side, left, top, grown } = view;
        context.setTransform(ratio, 0, 0, ratio, 0, 0);
        context.clearRect(0, 0, width, height);
        const colors = new Uint32Array(style.color.buffer);
        const [red, green, blue] = style.edge;
        let last = -1;
        for (const i of style.order) {
          const x = left + (points.x[i] / 65535) * side;
          const y = top + (1 - points.y[i] / 65535) * side;
          const size = ((style.size[i] % EDGED) / 4) * grown;
          if (x < -size || y < -size || x > width + size || y > height + size) continue;
          if (colors[i] !== last) {
            last = colors[i];
            context.fillStyle = `rgba(${style.color.subarray(4 * i, 4 * i + 3).join(",")},${style.color[4 * i + 3] / 255})`;
          }
          if (style.size[i] < EDGED || size < SHOWN) {
            context.fillRect(x - size / 2, y - size / 2, size, size);
          } else {
            context.beginPath();
            context.arc(x, y, size / 2 - 0.6, 0, 7);
            context.fill();
            context.strokeStyle = `rgba(${red},${green},${blue},${style.color[4 * i + 3] / 255})`;
            context.stroke();
          }
        }
      },
    };
  }

  return { webgl, plain };
})();
