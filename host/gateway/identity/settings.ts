/** What the configuration says of an issuer of access tokens. */

/** A claim's value and what it gives; what no entry names gives nothing. */
export interface IssuerMapping {
  readonly value: string;
  readonly scopes: readonly string[];
  readonly roles: readonly string[];
}

export interface IssuerSettings {
  /** Its callers' subjects are `<name>:<sub>`. */
  readonly name: string;
  /** Exactly what `iss` says. */
  readonly issuer: string;
  readonly audience: string;
  /** Without it, OpenID Connect Discovery below `issuer` tells. */
  readonly jwks_url?: string;
  readonly algorithms: readonly string[];
  /** The claim with scopes, roles or groups: a list of texts, or one text with spaces between them. */
  readonly claim: string;
  readonly map: readonly IssuerMapping[];
  readonly level: string;
}
