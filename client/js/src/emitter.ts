/** Emitter calls listeners by the name of an event. E maps names to payloads. */
export class Emitter<E extends object> {
  readonly #listeners = new Map<keyof E, Set<(payload: never) => void>>();

  /** on adds a listener and returns what removes it. */
  on<K extends keyof E>(name: K, listener: (payload: E[K]) => void): () => void {
    let set = this.#listeners.get(name);
    if (!set) this.#listeners.set(name, (set = new Set()));
    set.add(listener);
    return () => this.off(name, listener);
  }

  off<K extends keyof E>(name: K, listener: (payload: E[K]) => void): void {
    this.#listeners.get(name)?.delete(listener);
  }

  /**
   * emit calls every listener. What one throws is the page's own error: it is
   * reported as such and keeps neither the others nor the connection from going on.
   */
  protected emit<K extends keyof E>(name: K, payload: E[K]): void {
    for (const listener of [...(this.#listeners.get(name) ?? [])] as ((payload: E[K]) => void)[]) {
      try {
        listener(payload);
      } catch (error) {
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }
}
