// three.js and Spark around one canvas: a mesh and its splats in one place, looked at with one camera. Draws when something has changed, not all the time.

import { SparkRenderer, SplatMesh } from "@sparkjsdev/spark";
import * as three from "three";
import { OrbitControls } from "three/addons/controls/OrbitControls.js";
import { GLTFLoader } from "three/addons/loaders/GLTFLoader.js";
import { thinned } from "./thin";

export type Mode = "mesh" | "splat" | "compare";
export interface Files {
  mesh: string | null;
  splat: string | null;
  frame: string; // of the splats: y_down, y_up, z_up (docs/frames.md)
}
const TURN = 0.35; // radians a second
const MOST = 200_000; // splats on a small device: phones choke on 300,000
const small = () => matchMedia("(max-width: 640px), (max-height: 500px) and (pointer: coarse)").matches;

export class Scene3d {
  private renderer: three.WebGLRenderer;
  private scene = new three.Scene();
  private camera = new three.PerspectiveCamera(35, 1, 0.01, 100);
  private controls: OrbitControls;
  private meshes: three.Group | null = null;
  private wires: three.Group | null = null;
  private splats: SplatMesh | null = null;
  private spark: SparkRenderer;
  private observer: ResizeObserver;
  private wanted = false;
  private ended = false;
  private before = 0;
  private sphere = new three.Sphere(new three.Vector3(), 1);
  mode: Mode = "mesh";
  wireframe = false;
  turning = false;
  divider = 0.5;
  /** How many splats there are, and how many of them are drawn. */
  count = { shown: 0, all: 0 };
  /** Told when a picture has been drawn, with what was visible in it. */
  onDrawn: ((what: { mesh: boolean; splat: boolean }) => void) | null = null;

  constructor(private canvas: HTMLCanvasElement) {
    this.renderer = new three.WebGLRenderer({ canvas, alpha: true, antialias: devicePixelRatio < 2, preserveDrawingBuffer: true });
    this.renderer.setPixelRatio(Math.min(devicePixelRatio, small() ? 1.5 : 2));
    this.renderer.setClearColor(0, 0);
    this.spark = new SparkRenderer({ renderer: this.renderer, onDirty: () => this.draw() });
    this.scene.add(this.spark);
    this.scene.add(new three.HemisphereLight("#ffffff", "#b9b2a6", 2.2));
    const sun = new three.DirectionalLight("#ffffff", 1.3);
    sun.position.set(0.6, 1.2, 1.5);
    this.camera.add(sun); // the light stands behind the shoulder, so that no side is ever black
    this.scene.add(this.camera);
    this.controls = new OrbitControls(this.camera, canvas);
    this.controls.enableDamping = false;
    this.controls.touches = { ONE: three.TOUCH.ROTATE, TWO: three.TOUCH.DOLLY_ROTATE };
    this.controls.addEventListener("change", () => this.draw());
    this.observer = new ResizeObserver(() => this.fit());
    this.observer.observe(canvas.parentElement!);
    this.fit();
  }

  /** Loads what there is. Rejects where a file can't be read. */
  async load(files: Files): Promise<void> {
    const [mesh, splat] = await Promise.all([files.mesh ? this.mesh(files.mesh) : null, files.splat ? this.splat(files.splat, files.frame) : null]);
    if (this.ended) {
      splat?.dispose();
      return;
    }
    this.clear();
    this.meshes = mesh;
    this.splats = splat;
    if (mesh) {
      this.wires = wires(mesh);
      this.scene.add(mesh, this.wires);
    }
    if (splat) this.scene.add(splat);
    const box = new three.Box3();
    if (mesh) box.setFromObject(mesh);
    else if (splat) box.copy(splat.getBoundingBox(true)).applyMatrix4((splat.updateMatrixWorld(true), splat.matrixWorld));
    box.getBoundingSphere(this.sphere);
    this.reset();
  }

  private async mesh(url: string): Promise<three.Group> {
    const { scene } = await new GLTFLoader().loadAsync(url);
    return scene;
  }

  private async splat(url: string, frame: string): Promise<SplatMesh> {
    const answer = await fetch(url);
    if (!answer.ok) throw new Error(`splat.ply: ${answer.status}`);
    const found = thinned(await answer.arrayBuffer(), small() ? MOST : Infinity);
    const mesh = new SplatMesh({ fileBytes: found.bytes, fileName: "splat.ply" });
    this.count = { shown: found.shown, all: found.all };
    await mesh.initialized;
    if (frame === "y_down") mesh.rotation.x = Math.PI;
    if (frame === "z_up") mesh.rotation.x = -Math.PI / 2;
    return mesh;
  }

  get has(): { mesh: boolean; splat: boolean } {
    return { mesh: this.meshes !== null, splat: this.splats !== null };
  }

  /** The front, a little from above. */
  reset(): void {
    const { center, radius } = this.sphere;
    const distance = (radius * 0.98) / Math.sin(((Math.min(1, this.camera.aspect) * this.camera.fov) / 2) * (Math.PI / 180));
    this.camera.position.copy(center).add(new three.Vector3(0.42, 0.28, 1).normalize().multiplyScalar(distance));
    this.camera.near = distance / 100;
    this.camera.far = distance * 20;
    this.camera.updateProjectionMatrix();
    this.controls.target.copy(center);
    this.controls.minDistance = distance / 6;
    this.controls.maxDistance = distance * 4;
    this.controls.update();
    this.draw();
  }

  turn(by: number, up: number): void {
    const from = this.camera.position.clone().sub(this.controls.target);
    const ball = new three.Spherical().setFromVector3(from);
    ball.theta -= by;
    ball.phi = Math.min(Math.PI - 0.05, Math.max(0.05, ball.phi - up));
    this.camera.position.copy(this.controls.target).add(from.setFromSpherical(ball));
    this.controls.update();
    this.draw();
  }

  zoom(factor: number): void {
    const from = this.camera.position.clone().sub(this.controls.target);
    from.setLength(Math.min(this.controls.maxDistance, Math.max(this.controls.minDistance, from.length() * factor)));
    this.camera.position.copy(this.controls.target).add(from);
    this.controls.update();
    this.draw();
  }

  /** Ask for a picture; several asks before the next one are one. */
  draw(): void {
    if (this.wanted || this.ended) return;
    this.wanted = true;
    requestAnimationFrame((now) => {
      this.wanted = false;
      if (this.ended) return;
      this.frame(now);
      if (this.turning && !document.hidden) this.draw();
      else this.before = 0;
    });
  }

  private frame(now: number): void {
    if (this.turning) {
      const seconds = this.before ? Math.min(0.1, (now - this.before) / 1000) : 0;
      this.before = now;
      const from = this.camera.position.clone().sub(this.controls.target).applyAxisAngle(new three.Vector3(0, 1, 0), TURN * seconds);
      this.camera.position.copy(this.controls.target).add(from);
      this.camera.lookAt(this.controls.target);
    }
    const size = this.renderer.getSize(new three.Vector2());
    if (this.mode !== "compare") this.part(this.mode === "mesh", this.mode === "splat", 0, size.x, size);
    else {
      const cut = Math.round(size.x * this.divider);
      this.part(true, false, 0, cut, size);
      this.part(false, true, cut, size.x - cut, size);
    }
    this.onDrawn?.({ mesh: this.mode !== "splat" && this.has.mesh, splat: this.mode !== "mesh" && this.has.splat });
  }

  private part(mesh: boolean, splat: boolean, x: number, width: number, size: three.Vector2): void {
    if (this.meshes) this.meshes.visible = mesh;
    if (this.wires) this.wires.visible = this.wireframe && mesh;
    this.spark.visible = splat; // not the splats themselves: what is invisible is taken out of its lists, and comes back some frames later
    this.renderer.setScissorTest(true);
    this.renderer.setScissor(x, 0, width, size.y);
    this.renderer.render(this.scene, this.camera);
  }

  private fit(): void {
    const { clientWidth, clientHeight } = this.canvas.parentElement!;
    if (!clientWidth || !clientHeight) return;
    this.renderer.setSize(clientWidth, clientHeight, false);
    this.camera.aspect = clientWidth / clientHeight;
    this.camera.updateProjectionMatrix();
    this.draw();
  }

  snapshot(): Promise<Blob> {
    this.frame(performance.now());
    return new Promise((done, failed) => this.canvas.toBlob((blob) => (blob ? done(blob) : failed(new Error("no picture"))), "image/png"));
  }

  private clear(): void {
    for (const group of [this.meshes, this.wires])
      group?.traverse((one) => {
        if (!(one instanceof three.Mesh || one instanceof three.LineSegments)) return;
        one.geometry.dispose();
        for (const material of [one.material].flat() as three.MeshStandardMaterial[]) {
          material.map?.dispose();
          material.dispose();
        }
      });
    for (const one of [this.meshes, this.wires, this.splats]) one?.removeFromParent();
    this.splats?.dispose();
    this.meshes = this.wires = this.splats = null;
  }

  end(): void {
    this.ended = true;
    this.observer.disconnect();
    this.controls.dispose();
    this.clear();
    this.spark.dispose();
    this.renderer.dispose();
    this.renderer.forceContextLoss(); // else its memory stays until the canvas is collected, and a browser has some sixteen contexts for all pages
  }
}

/** The faces' outlines, over the mesh. */
function wires(group: three.Group): three.Group {
  const lines = new three.Group();
  const material = new three.LineBasicMaterial({ color: "#0f766e", transparent: true, opacity: 0.65 });
  group.updateMatrixWorld(true);
  group.traverse((one) => {
    if (!(one instanceof three.Mesh)) return;
    const wire = new three.LineSegments(new three.WireframeGeometry(one.geometry), material);
    wire.applyMatrix4(one.matrixWorld);
    lines.add(wire);
  });
  return lines;
}
