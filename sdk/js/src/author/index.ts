/** What tools around a plugin's source import: types, folder and bundle. */
export { packPlugin, readPluginFolder, type PackedPlugin } from './folder.ts';
export {
  BUNDLE_LIMITS,
  readBundle,
  readPackage,
  writeBundle,
  type Bundle,
  type BundleLimits,
} from './bundle.ts';
export { generateTypes, PORTS } from './types.ts';
