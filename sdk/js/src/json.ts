/** A value that JSON can carry (RFC 8259). */
export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

/** A JSON Schema (2020-12), as an open object: validators, not the type system, judge its content. */
export type JsonSchema = { readonly [keyword: string]: unknown };
